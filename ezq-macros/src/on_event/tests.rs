use super::*;

fn expanded(arguments: TokenStream, item: TokenStream) -> String {
    expand(arguments, item).to_string().replace(' ', "")
}

fn mistakes(arguments: TokenStream, item: TokenStream) -> Vec<String> {
    let file: syn::File = syn::parse2(expand(arguments, item)).expect("items");
    file.items
        .iter()
        .filter_map(|item| match item {
            syn::Item::Macro(item) if item.mac.path.segments.len() == 2 => Some(
                syn::parse2::<syn::LitStr>(item.mac.tokens.clone())
                    .expect("text")
                    .value(),
            ),
            _ => None,
        })
        .collect()
}

fn mistake(arguments: TokenStream, item: TokenStream) -> String {
    let mut all = mistakes(arguments, item);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

#[test]
fn keeps_the_function_as_written() {
    let item = quote! {
        /// Greets.
        #[inline]
        pub(crate) async fn greet(Created { mut name, .. }: Created) { name.clear(); }
    };
    let text = expanded(quote!(), item.clone());
    assert!(text.contains(&item.to_string().replace(' ', "")), "{text}");
    assert!(text.contains("pub(crate)greet}"), "{text}");
}

#[test]
fn names_a_handler_after_its_path_unless_pinned() {
    let text = expanded(
        quote!(),
        quote!(
            async fn r#match(e: E) {}
        ),
    );
    assert!(
        text.contains(r#"concat!(::core::module_path!(),"::match")"#),
        "{text}"
    );

    let text = expanded(
        quote!(name = "pinned"),
        quote!(
            async fn f(e: E) {}
        ),
    );
    assert!(text.contains(r#"Handler::new("pinned","#), "{text}");
}

#[test]
fn takes_the_event_first_and_extractors_by_position() {
    let text = expanded(
        quote!(),
        quote!(
            async fn f(e: E, a: A, State(b): State<B>) -> R {}
        ),
    );
    assert!(text.contains("from_event::<E>(&__ezq_call)?"), "{text}");
    assert!(text.contains("extract::<A>(&__ezq_call).await?"), "{text}");
    assert!(
        text.contains(".requires::<A>().requires::<State<B>>()"),
        "{text}"
    );

    let call = "(__ezq_output.take)(f(__ezq_event,__ezq_argument_0,__ezq_argument_1).await)";
    assert!(text.contains(call), "{text}");
}

#[test]
fn forwards_the_settings() {
    let text = expanded(
        quote!(
            order = -1,
            timeout = "1500ms",
            retry(
                max_attempts = 3,
                backoff = "linear",
                initial = "2s",
                max = "1m"
            ),
            crate = events
        ),
        quote!(
            async fn f(e: E) {}
        ),
    );

    assert!(text.contains(".order(-1i32)"), "{text}");
    assert!(
        text.contains("Option::Some(::core::time::Duration::new(1u64,500000000u32))"),
        "{text}"
    );
    assert!(text.contains(".max_attempts(3u32)"), "{text}");
    assert!(
        text.contains("events::__private::Backoff::linear("),
        "{text}"
    );

    let text = expanded(
        quote!(timeout = "none"),
        quote!(
            async fn f(e: E) {}
        ),
    );
    assert!(
        text.contains(".timeout(::core::option::Option::None)"),
        "{text}"
    );
    assert!(!text.contains(".backoff"), "{text}");
}

#[test]
fn puts_layers_around_a_handler_in_the_order_in_which_they_are_written() {
    let given = quote!(layer = log::timing, layer = Breaker::after(5, "1m"));
    let handler = quote!(
        async fn f(e: E) {}
    );
    let chain = r#".layer(log::timing).layer(Breaker::after(5,"1m"))"#;
    let text = expanded(given.clone(), handler);
    assert!(text.contains(chain), "{text}");

    let task = quote!(
        async fn f() {}
    );
    let scheduled = expand_scheduled(quote!(every = "1m", #given), task);
    let text = scheduled.to_string().replace(' ', "");
    assert!(text.contains(chain), "{text}");
    let missing = mistake(
        quote!(layer),
        quote!(
            async fn f(e: E) {}
        ),
    );
    assert!(missing.contains("layer = timing"), "{missing}");
}

#[test]
fn fills_in_the_rest_of_a_backoff() {
    let backoff = |arguments: TokenStream| {
        expanded(
            arguments,
            quote!(
                async fn f(e: E) {}
            ),
        )
    };

    let text = backoff(quote!(retry(initial = "10s")));
    assert!(
        text.contains("Exponential{initial:::core::time::Duration::new(10u64,0u32),max:::core::time::Duration::new(300u64,0u32),multiplier:2u32,jitter:::ezq::__private::Jitter::Full,}"),
        "{text}"
    );

    let text = backoff(quote!(retry(backoff = "constant")));
    assert!(
        text.contains("constant(::core::time::Duration::new(1u64,0u32))"),
        "{text}"
    );

    let text = backoff(quote!(concurrency = 4));
    assert!(text.contains(".concurrency(4usize)"), "{text}");
    let text = backoff(quote!(retry(multiplier = 3, jitter = "none")));
    assert!(text.contains("multiplier:3u32"), "{text}");
    assert!(text.contains("Jitter::None"), "{text}");

    let text = backoff(quote!(retry(backoff = pauses::patient)));
    assert!(text.contains("Backoff::custom(pauses::patient)"), "{text}");
    let text = backoff(quote!(retry(backoff = pauses::patient(7))));
    assert!(
        text.contains("Backoff::custom(pauses::patient(7))"),
        "{text}"
    );
    let text = backoff(quote!(retry(backoff = "linear", initial = "1h")));
    assert!(text.contains("linear(::core::time::Duration::new(3600u64,0u32),::core::time::Duration::new(3600u64,0u32))"), "{text}");
}

#[test]
fn a_condition_covers_the_type_that_the_definition_hangs_on() {
    let text = expanded(
        quote!(),
        quote!(
            #[cfg(feature = "mail")]
            async fn f(e: E) {}
        ),
    );
    assert_eq!(
        text.matches(r#"#[cfg(feature="mail")]"#).count(),
        2,
        "{text}"
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn refuses_other_signatures() {
    let refused = |item: TokenStream| mistake(quote!(), item);
    assert_eq!(
        refused(quote!(
            fn f(e: E) {}
        )),
        "a handler is async: write `async fn f`"
    );
    assert!(
        refused(quote!(
            async fn f() {}
        ))
        .contains("write `async fn f(event: MyEvent)`")
    );
    assert!(
        refused(quote!(
            async fn f(&self, e: E) {}
        ))
        .contains("without `self`")
    );
    assert!(
        refused(quote!(
            async fn f<T>(e: T) {}
        ))
        .contains("no generic parameters")
    );
    assert!(
        refused(quote!(
            async unsafe fn f(e: E) {}
        ))
        .contains("unsafe")
    );
    assert!(
        refused(quote!(
            async extern "C" fn f(e: E) {}
        ))
        .contains("extern")
    );
    assert!(
        refused(quote!(
            async fn f(e: impl Into<E>) {}
        ))
        .contains("impl Trait")
    );
    assert!(
        refused(quote!(
            async fn f(e: Vec<(impl Into<E>,)>) {}
        ))
        .contains("impl Trait")
    );
    assert!(
        refused(quote!(
            async fn f(e: &Vec<a::E>) {}
        ))
        .contains("write `e: Vec<a::E>`")
    );
    assert!(
        refused(quote!(
            async fn f(e: E, #[cfg(a)] b: B) {}
        ))
        .contains("whole function")
    );
    assert!(
        refused(quote!(
            struct F;
        ))
        .contains("goes on a function")
    );
    assert!(
        refused(quote!(
            mod f {}
        ))
        .contains("goes on a function")
    );
}

#[test]
fn refuses_other_settings() {
    let refused = |arguments: TokenStream| {
        mistake(
            arguments,
            quote!(
                async fn f(e: E) {}
            ),
        )
    };
    assert_eq!(
        refused(quote!(timout = "3s")),
        "unknown key `timout`: did you mean `timeout`?"
    );
    assert!(refused(quote!(queue = "my mail")).contains("is not a queue name"));
    assert!(refused(quote!(batch(size = 3))).contains("take `Batch<MyEvent>`"));
    assert!(refused(quote!(batch(size = 0))).contains("at least 1"));
    assert!(refused(quote!(batch(count = 3))).contains("unknown key `count`"));
    assert!(refused(quote!(concurrency = 0)).contains("at least 1"));
    assert!(refused(quote!(order = 1, order = 2)).contains("given twice"));
    assert!(refused(quote!(name = "")).contains("must not be empty"));
    assert!(refused(quote!(timeout = "soon")).contains("\"30s\""));
    assert!(refused(quote!(timeout = 30)).contains("is written `timeout = \"30s\"`"));
    assert!(refused(quote!(timeout = "0s")).contains("zero"));
    assert!(refused(quote!(retry = 3)).contains("is written `retry("));
    assert!(refused(quote!(retry(max_attempts = 0))).contains("at least 1"));
    assert!(refused(quote!(retry(attempts = 3))).contains("did you mean `max_attempts`?"));
    assert!(refused(quote!(retry(backoff = "exponental"))).contains("\"exponential\""));
    assert!(refused(quote!(retry(backoff = "cubic"))).contains("\"linear\""));
    assert!(refused(quote!(retry(backoff = "constant", max = "3s"))).contains("no `max`"));
    assert!(refused(quote!(retry(backoff = "linear", multiplier = 3))).contains("exponential"));
    assert!(refused(quote!(retry(backoff = "constant", jitter = "none"))).contains("exponential"));
    assert!(refused(quote!(retry(backoff = patient, jitter = "none"))).contains("exponential"));
    assert!(refused(quote!(retry(multiplier = 0))).contains("at least 1"));
    assert!(refused(quote!(retry(jitter = "fool"))).contains("\"full\""));
    assert!(refused(quote!(retry(jitter = "equal"))).contains("\"none\""));
    assert!(refused(quote!(retry(backoff = patient, initial = "3s"))).contains("decides alone"));
    assert!(refused(quote!(retry(backoff = 3))).contains("is written `backoff"));
    assert!(refused(quote!(retry(initial = "1h", max = "1m"))).contains("shorter"));
    assert!(refused(quote!(retry(initial = "soon"))).contains("\"30s\""));
}

#[test]
fn names_several_mistakes_at_once() {
    let all = mistakes(
        quote!(timout = "3s", name = ""),
        quote!(
            fn f(e: &E) {}
        ),
    );
    assert_eq!(all.len(), 4, "{all:?}");
}

#[test]
fn a_mistaken_handler_keeps_its_name() {
    let text = expanded(
        quote!(name = ""),
        quote!(
            async fn f(e: E) {}
        ),
    );
    assert!(text.contains("HandlerDefinitionforf"), "{text}");
    assert!(!text.contains("inventory"), "{text}");
}
